"""Operations by family: validation, choice of algorithm, forward and backward."""
