"""What a strategy does, shown without a model: pictures, sentences, and a page to step through."""
