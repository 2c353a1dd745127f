"""What a recipe file may say: pure schema."""
