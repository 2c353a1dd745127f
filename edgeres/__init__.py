"""edgeres: prune, quantize and prove residual networks on the engines that will run them."""

from edgeres.version import __version__

__all__ = ["__version__"]
