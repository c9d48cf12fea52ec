"""Random networks over every operator, option, method, norm and precision: does any point leave a bound?"""
