"""Where base text comes from: one file per source, with `items(source, folders)` and `read(item)`."""
