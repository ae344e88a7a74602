"""Export codes to the formats of other tools, one module per target."""
