"""How the eyes of the demo model are made; README.md says how to run it."""
