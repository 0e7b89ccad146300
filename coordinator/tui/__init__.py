"""The terminal interface: the mesh as one sees it, over the same core as the commands.

    session (feeds) -> messages -> app (state) -> model (what is shown) -> screens and canvas (paint)

`model` is pure and knows no Textual; a `session` is the one seam to a mesh; only handlers of the app change state; a
canvas repaints the visible lines that changed, at most twice a second.
"""
