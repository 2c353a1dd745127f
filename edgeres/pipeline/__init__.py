"""A whole run: from a recipe to engines with their proof."""
