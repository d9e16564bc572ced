
BX_scaleJxyzxyzxyzxyzxyzxyzxyzxyzxyzxyz