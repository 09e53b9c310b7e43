"""Rollout: shadow, canary and watch trials advance on live labels, and broken champions are replaced."""
