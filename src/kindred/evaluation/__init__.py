"""How good a representation is: functions of features and labels, which know nothing of Lightning."""
