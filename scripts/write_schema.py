"""Writes the JSON Schema of recipes, which editors use, from the classes that check them."""

import json
from pathlib import Path

from edgeres.recipe.recipe import json_schema

TARGET = Path(__file__).parent.parent / "recipes" / "recipe.schema.json"

if __name__ == "__main__":
    TARGET.write_text(json.dumps(json_schema(), indent=1) + "\n")
