"""After a disaster the lake is what it was at one moment, and the nights go on from there."""
