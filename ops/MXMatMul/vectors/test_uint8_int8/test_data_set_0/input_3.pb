
BW_scaleJxyzxyzxyzxyzxyzxyzxy