/* exp, log, tanh, erf on vectors of float. */
