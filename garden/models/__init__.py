"""Network families: `Backbone.from_pretrained(directory)` opens the one that its config.json names."""

from garden.models.backbone import FAMILIES, Backbone

__all__ = ["FAMILIES", "Backbone"]
