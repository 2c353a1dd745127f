"""Trained networks that come as torch modules: from Python code, Keras files, exported programs."""
