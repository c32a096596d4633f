"""The public data sets that are known by name."""

from __future__ import annotations

ADAPTERS = {module.CARD.name: module for module in ()}
