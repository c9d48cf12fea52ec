"""The jobs that commands hand to an engine: `certify` works on batches of images, `verify` on listed properties."""
