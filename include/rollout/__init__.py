"""A promoted challenger comes to serve in steps, each taken on live evidence, and goes back by itself."""
