"""The product: latents, what is known about each item, and the base that decodes them, in one zarr group."""
