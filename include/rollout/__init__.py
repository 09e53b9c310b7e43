"""Rollout: shadow, canary and watch trials advance on live labels, and failing champions are demoted."""
