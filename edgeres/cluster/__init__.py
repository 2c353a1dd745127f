"""One validation over many processes or machines."""
