"""``python -m edgeres``: the command line, where its script is not on the path."""

from edgeres.cli import main

if __name__ == "__main__":
    main()
