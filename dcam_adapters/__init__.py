"""Model families for dcam: one package per family, the parts they share in `common`."""
