"""Shares between lanes that are loaded: a source moves requests from lanes that fall behind to lanes with room."""
