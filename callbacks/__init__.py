"""Lightning callbacks: when to measure and where to log. Each also works in a plain `Trainer(callbacks=[…])`."""
