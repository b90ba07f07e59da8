"""Pages that show runs: one self-contained HTML file each. Imports no torch, so that a page is made in a second or two."""
