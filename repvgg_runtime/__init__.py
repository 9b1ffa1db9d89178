"""Run exported segmentors and handle images, without torch and mmseg."""
