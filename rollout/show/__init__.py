"""What strategies and attention look like: drawings without a model, attention of a real one, and a page that rolls out live."""
