"""The adapters of public data sets, by the name that a problem has as its `source`."""

ADAPTERS: dict = {}
