"""OpenVINO on CPUs."""
