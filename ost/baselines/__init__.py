"""What people choose training data by otherwise: a judge, DEITA, LESS, low loss, reference models, FineVision's
ratings."""
