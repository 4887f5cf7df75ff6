"""Images: where they come from, and the views of them."""
