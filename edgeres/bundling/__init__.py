"""One file that holds a proven engine and all that it takes to run, check and rebuild it."""
