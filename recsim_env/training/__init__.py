"""Training of user models and policies. Heavy libraries are imported where they are used."""
