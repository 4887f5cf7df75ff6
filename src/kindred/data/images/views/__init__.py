"""The views of images: `MultiView` computes several `View`s of a batch."""

from kindred.data.images.views.multi_view import MultiView
from kindred.data.images.views.view import View

__all__ = ["MultiView", "View"]
