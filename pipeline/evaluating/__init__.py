"""Accuracy on labelled images, and the most probable classes of single images."""
