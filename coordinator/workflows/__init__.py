"""The workflows that a coordinator knows, and what can serve their stages."""
