"""Other machines: engines are copied there, run there, and the results come back."""
