"""The six screens, a module each, and the dialogs. A screen paints from the view, and asks the app's session to act."""
