"""Studies of one use case on its own nights: what the gate's promotions and the alarms' rates are worth."""
