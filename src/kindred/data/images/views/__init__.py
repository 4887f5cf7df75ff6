"""The views of images: what each is drawn and computed as."""
