"""Search for the fastest recipe within the accuracy budget."""
