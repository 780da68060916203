"""Where base text comes from: one file per source, with `items(design, folders)` and `read(item)`."""
