"""What people choose training data by otherwise: a judge, DEITA, LESS, low loss, reference models, TACS, Train on
Validation, in-context approximation, VisNec, FineVision's ratings."""
