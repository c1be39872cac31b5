"""The local policy: a softmax over sets of categories that trains and routes on the CPU."""
