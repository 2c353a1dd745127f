"""Files, child processes and what this machine is: what everything else stands on."""
