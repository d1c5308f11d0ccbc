"""Who becomes the champion: what is asked, what the models show, and what was decided."""
