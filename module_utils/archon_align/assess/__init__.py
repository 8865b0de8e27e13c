"""The state of both databases before anything is done, in numbers and in words."""
