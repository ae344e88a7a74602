"""Export codes to the formats of other tools, one module a target."""
