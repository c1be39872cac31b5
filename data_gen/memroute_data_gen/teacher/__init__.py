"""The Cohere teacher: labelled conversations from a hosted model, none lost and none paid twice."""
