	BW_codesJ¼jI®#ÉmðB`ß´
WÒj;¹Þ]¹îˆ¿