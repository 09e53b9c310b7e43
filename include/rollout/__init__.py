"""The rollout stage: shadow, canary and watch take their steps on live labels."""
